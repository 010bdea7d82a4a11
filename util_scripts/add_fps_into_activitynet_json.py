"""Add `fps` and `n_frames` of the videos on disk to ActivityNet's annotation, whose segments are in seconds.

Of videos whose frames are not evenly spaced, as phones and screen recorders make them, `times` says when each is shown.

Give the folder that main.py will read, because frames that were taken with --fps have another rate than their video.
"""

import argparse
import json
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # also where it is called by its path

from datasets import READERS
from datasets.activitynet import find_keys
from datasets.annotation import load_database
from machine.cores import cores
from machine.writing import write_text
from options.errors import CommandLine, user_errors


def main(argv: list[str] | None = None) -> None:
    parser = CommandLine(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("video_dir", type=Path, help="folder of frame folders or video files v_KEY")
    parser.add_argument("annotation", type=Path, help="ActivityNet's JSON")
    parser.add_argument("out", type=Path, help="JSON to write")
    parser.add_argument("--file_type", default="jpg", choices=sorted(READERS), help="kind of VIDEO_DIR (default: jpg)")
    args = parser.parse_args(argv)
    with user_errors():
        if args.out.resolve() == args.annotation.resolve():
            raise ValueError(f"{args.out}: is ActivityNet's own annotation, of which videos that are not here would be "
                             "lost; give another file to write")
        content = load_database(args.annotation, "fetch ActivityNet's JSON again")
        paths = find_keys(content["database"], args.video_dir, file_type=args.file_type)
        present = {key: Path(path) for key, path in paths.items() if path is not None}
        if not present:
            raise FileNotFoundError(f"{args.video_dir}: none of the {len(paths)} videos v_KEY is here; check the folder"
                                    " and --file_type")
        reader = READERS[args.file_type]()

        def look(path: Path) -> dict | str:
            try:
                info, times = reader.info(path), reader.times(path)
                if times is None:
                    return f"{path}: has no frame rate; run generate_video_jpgs for this video"
                listed = times.listed()
                return {"fps": times.fps, "n_frames": info.n_frames} | ({} if listed is None else {"times": listed})
            except ValueError as error:
                return str(error)

        with ThreadPoolExecutor(cores()) as pool:
            infos = list(tqdm(pool.map(look, present.values()), total=len(present), unit="video", desc="frame rates"))
        known = {key: info for key, info in zip(present, infos, strict=True) if isinstance(info, dict)}
        for sentence in (info for info in infos if isinstance(info, str)):
            print(f"left out: {sentence}", file=sys.stderr)
        if not known:
            raise ValueError(f"{args.video_dir}: none of the {len(present)} videos can be read; prepare them again "
                             "with util_scripts.generate_video_jpgs")
        content["database"] = {key: {name: value for name, value in entry.items() if name != "times"} | known[key]
                               for key, entry in content["database"].items()
                               if key in known and isinstance(entry, dict)}
        write_text(args.out, json.dumps(content), durable=True)
    print(f"{args.out}: {len(content['database'])} of {len(paths)} videos are here and in it; "
          f"{len(paths) - len(present)} are not in {args.video_dir}, {len(present) - len(known)} cannot be read")


if __name__ == "__main__":
    main()
