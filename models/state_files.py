"""Reading files of weights without running code, and saying in a few words what a file is that holds none."""

import importlib.util
import pickle
import zipfile
from pathlib import Path

import torch

from models.arrays import plain, stand_ins

HEAD = 2048  # bytes that are looked at to tell what a file is
CONVERT = ("python -c \"import torch; c = torch.load('OLD', map_location='cpu', weights_only=False); "
           "c = c.state_dict() if hasattr(c, 'state_dict') else c.get('state_dict', c); "
           "torch.save({k: v for k, v in c.items() if torch.is_tensor(v)}, 'NEW')\"")
SAFETENSORS = "pip install safetensors, and it is read as it is"
SCRIPTED = "python -c \"import torch; torch.save(torch.jit.load('OLD', 'cpu').state_dict(), 'NEW')\""
UNPACK = "unpack it and give the file of weights in it"
AGAIN = "fetch it again"
# first bytes of a file, what it is, and what to do about it
SIGNATURES = ((b"version https://git-lfs", "a pointer of Git LFS, which stands for the file", "run git lfs pull"),
              (b"\x1f\x8b", "a gzip archive", UNPACK), (b"BZh", "a bzip2 archive", UNPACK),
              (b"\xfd7zXZ", "an xz archive", UNPACK), (b"7z\xbc\xaf", "a 7z archive", UNPACK),
              (b"Rar!", "a RAR archive", UNPACK), (b"\x28\xb5\x2f\xfd", "a zstd archive", UNPACK),
              (b"\x89HDF", "an HDF5 file", "convert it to a state_dict of PyTorch"),
              (b"\x93NUMPY", "a numpy array", "give a state_dict, which names its tensors"),
              (b"\xff\xd8\xff", "a picture", "give the file of weights"),
              (b"\x89PNG", "a picture", "give the file of weights"), (b"%PDF", "a PDF", "give the file of weights"),
              (b"RIFF", "a video or sound", "give the file of weights"),
              (b"\x1aE\xdf\xa3", "a video", "give the file of weights"))


def read_state(path: str | Path) -> object:
    """Read a file of tensors and plain types only.

    Raises:
        FileNotFoundError, ValueError: naming the file, where there is none or it cannot be read, and what it is.
    """
    path = Path(path)
    if path.is_dir():
        raise ValueError(f"{path}: a folder; give a file in it, or its newest checkpoint by --resume_path auto "
                         "--result_path")
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file; check the path")
    if not path.is_file():
        raise ValueError(f"{path}: neither a file nor a folder; give a file of weights")
    try:
        return _load(path)
    except PermissionError as error:
        raise ValueError(f"{path}: cannot be opened ({error.strerror}); look at its permissions") from error
    except MemoryError as error:
        raise ValueError(f"{path}: wants more memory than there is; it may be damaged: {AGAIN}") from error
    except Exception as error:  # torch raises half a dozen kinds for a truncated, foreign or unsafe file
        if foreign := kind_of_file(path):
            raise ValueError(f"{path}: {foreign[0]}, not a checkpoint of PyTorch; {foreign[1]}") from error
        if "GLOBAL" in str(error):
            raise ValueError(
                f"{path}: a pickle with more than tensors and plain types, which could run any code and is not opened; "
                "if you trust where it is from, convert it once, best on a machine without anything of value: "
                f"{CONVERT}") from error
        raise ValueError(f"{path}: cannot be read as a checkpoint of tensors and plain types; it may be truncated, or "
                         f"something else: {AGAIN} ({type(error).__name__})") from error


def _load(path: Path) -> object:
    """The content of a file; numbers of numpy and flags beside the tensors are read by what stands in for them."""
    if _is_safetensors(path) and importlib.util.find_spec("safetensors") is not None:
        from safetensors.torch import load_file
        return load_file(path)
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if "GLOBAL" not in str(error) or not zipfile.is_zipfile(path):
            raise
        found = stand_ins(torch.serialization.get_unsafe_globals_in_checkpoint(path))
        if found is None:
            raise
    with torch.serialization.safe_globals(found):
        return plain(torch.load(path, map_location="cpu", weights_only=True))


def _is_safetensors(path: Path) -> bool:
    """Whether a file begins with the length of a JSON header, and then it."""
    with open(path, "rb") as file:
        head = file.read(9)
    return head[8:9] == b"{" and 0 < int.from_bytes(head[:8], "little") < path.stat().st_size


def kind_of_file(path: Path) -> tuple[str, str] | None:
    """What a file is that torch cannot read, and what to do about it; None for what may be a checkpoint."""
    with open(path, "rb") as file:
        head = file.read(HEAD)
    if not head:
        return "an empty file", AGAIN
    if head.startswith(b"PK"):
        return _kind_of_archive(path)
    for signature, what, remedy in SIGNATURES:
        if head.startswith(signature):
            return what, remedy
    if head[4:8] == b"ftyp":
        return "a video", "give the file of weights"
    if head[257:262] == b"ustar":
        return "a tar archive", UNPACK
    if _is_safetensors(path):
        if importlib.util.find_spec("safetensors") is None:
            return "a safetensors file", SAFETENSORS
        return "a safetensors file that cannot be read, cut short or damaged", AGAIN
    return _kind_of_text(head)


def _kind_of_archive(path: Path) -> tuple[str, str] | None:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        return None  # torch's own files are zips, too; this one is cut short
    if any(name.endswith("/constants.pkl") for name in names):
        return "a scripted network (TorchScript)", f"convert it once: {SCRIPTED}"
    if any(name.split("/")[-1] == "data.pkl" for name in names):
        return None
    if names and all(name.endswith(".npy") for name in names):
        return "an archive of numpy arrays", "convert it to a state_dict of PyTorch"
    return f"a zip archive of {len(names)} files", UNPACK


def _kind_of_text(head: bytes) -> tuple[str, str] | None:
    """What a text is, in any encoding that files of text have."""
    encoding = "utf-16" if head[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    try:
        text = head.decode(encoding, errors="strict" if len(head) < HEAD else "ignore").strip()
    except UnicodeDecodeError:
        return None
    if not text or not all(letter.isprintable() or letter in "\r\n\t\f" for letter in text):
        return None
    if any(mark in text.lower() for mark in ("<!doctype html", "<html", "<head")):
        return "a web page, such as a failed download leaves", f"{AGAIN}, and look at the page in a browser"
    if text.startswith("<?xml"):
        return "an XML text, such as a failed download leaves", AGAIN
    if text[0] in "{[":
        return "a JSON text", "give the file of weights"
    return "a text", "give the file of weights"
