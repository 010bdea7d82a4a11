"""The command lines of all scripts on the material, each with what it reads and may therefore be spoilt."""

from dataclasses import dataclass

from benchmarks.fuzz.material import CALL, CLIPS, DATA, MODEL, NETWORK, QUICK

FORMS = ("jpg", "hdf5", "packed", "video")
CHECKPOINT = "results/save_1.pth"
HERE = ["--resume_path", CHECKPOINT, "--root_path", "."]  # not where the checkpoint was made
NEW = ["--result_path", "out"]


@dataclass(frozen=True)
class Line:
    """A command line in the folder of the material.

    Attributes:
        script: its module. words: of the command line. inputs: what it reads, files and folders, relative to the
            material. writes: what it may change beside `out`, by the beginning of the path.
    """

    script: str
    words: tuple[str, ...]
    inputs: tuple[str, ...]
    writes: tuple[str, ...] = ("out",)
    share: float = 1.0

    @property
    def reads(self) -> set[str]:
        """The entries of the material that it names."""
        return {name.partition("/")[0] for name in (*self.inputs, *self.words)}


def line(script: str, *words: str | list[str], inputs: str, writes: str = "out", share: float = 1.0) -> Line:
    """A Line of words and lists of words; inputs and writes are separated by blanks."""
    flat = [part for word in words for part in (word if isinstance(word, list) else word.split())]
    return Line(script, tuple(flat), tuple(inputs.split()), tuple(writes.split()), share)


def _of_data(form: str) -> list[str]:
    return f"--root_path . --video_path {form} --file_type {form} --annotation_path ucf101_01.json".split()


def _attribution() -> list[Line]:
    trunk = ["--pretrain_path", "weights.pth", "--classes", "classes.json", "--model", "resnet", *NETWORK, *CLIPS]
    methods = "--methods grad_cam --measures pointing insertion --steps 2 --n_videos 1"
    few = ["--n_videos", "1", "--no_cuda", "--out", "out"]
    return [
        line("local_attribution", HERE, few, inputs=f"{CHECKPOINT} jpg ucf101_01.json"),
        line("local_attribution", trunk, "--videos_dir video --tubes none", few,
             inputs="weights.pth classes.json video"),
        line("local_attribution", trunk, "--videos_dir jpg --vis_method grad", few,
             inputs="weights.pth classes.json jpg"),
        line("evaluate_explanations", HERE, methods, "--truth truth.json --no_cuda --out out",
             inputs=f"{CHECKPOINT} jpg ucf101_01.json truth.json"),
        line("evaluate_explanations", trunk, "--videos_dir video", methods, "--truth truth.json --no_cuda --out out",
             inputs="weights.pth classes.json video truth.json")]


def _annotating() -> list[Line]:
    lists = (("ucf101_json", "ucf", "jpg", "out"), ("ucf101_json", "ucf", "video", "out"),
             ("hmdb51_json", "hmdb", "jpg", "out"), ("kinetics_json", "kinetics", "seconds", "out.json"),
             ("moments_json", "moments", "jpg", "out.json"), ("something_json", "something", "jpg", "out.json"),
             ("epic_kitchens_json", "epic", "jpg", "out.json"), ("egtea_json", "egtea", "sessions", "out"))
    return [*(line(f"util_scripts.{script}", [folder, videos, out], inputs=f"{folder} {videos}")
              for script, folder, videos, out in lists),
            line("util_scripts.activitynet_hierarchy", "activitynet.json out.csv", inputs="activitynet.json"),
            line("util_scripts.add_fps_into_activitynet_json", "flat activitynet.json out.json",
                 inputs="flat activitynet.json"),
            line("util_scripts.ucf24_truth", "truth.json jpg out.json", inputs="truth.json jpg"),
            line("util_scripts.eval_accuracy", "ucf101_01.json results/val.json --subset val",
                 inputs="ucf101_01.json results/val.json"),
            line("util_scripts.eval_accuracy", "ucf101_01.json results/val.json --subset val --tree_file tree.csv",
                 inputs="ucf101_01.json results/val.json tree.csv")]


def _preparing() -> list[Line]:
    return [line("util_scripts.generate_video_jpgs", "video out ucf101 --n_jobs 1 --size 24", inputs="video"),
            line("util_scripts.generate_video_jpgs", "video out ucf101 --n_jobs 1 --size 24 --fps 5", inputs="video"),
            line("util_scripts.generate_video_hdf5", "jpg out --n_jobs 1", inputs="jpg"),
            line("util_scripts.pack_frames", "jpg out --shard_gb 3e-5", inputs="jpg"),
            *(line("util_scripts.check_dataset", _of_data(form), "--tree_file tree.csv --sample_duration 8 "
                   "--n_threads 0 --fix out.json", inputs=f"{form} ucf101_01.json tree.csv") for form in FORMS)]


def _training() -> list[Line]:
    """Of main.py, and what goes on from its checkpoint."""
    infer = ["--resume_path", CHECKPOINT, *NEW, "--no_train", "--no_val", "--inference", *CALL]
    fresh = [*MODEL, *QUICK, *CALL, *NEW]
    return [
        *(line("main", infer, _of_data(form), inputs=f"{form} ucf101_01.json {CHECKPOINT}") for form in FORMS),
        line("main", DATA, fresh, inputs="tree.csv ucf101_01.json jpg"),
        line("main", DATA, fresh, "--pretrain_path weights.pth --no_val", inputs="tree.csv weights.pth jpg"),
        line("main", DATA, fresh, "--score hyperbolic --emb_file embeddings.pth", inputs="tree.csv embeddings.pth"),
        line("main", "--root_path . --video_path flat --dataset activitynet --annotation_path activitynet_fps.json "
             "--tree_file tree.csv", fresh, inputs="activitynet_fps.json flat"),
        line("main", "--resume_path auto --root_path . --result_path results --n_epochs 2", CALL, inputs="results jpg",
             writes="results"),
        line("util_scripts.export", "--resume_path", CHECKPOINT, "out.pt2", inputs=CHECKPOINT, share=0.05),
        line("util_scripts.prune", HERE, "--retune 1 --no_cuda --out out/pruned.pth",
             inputs=f"{CHECKPOINT} jpg ucf101_01.json"),
        line("util_scripts.fit_embeddings", "tree.csv out.pth --dim 8 --epochs 2", inputs="tree.csv"),
        line("util_scripts.fit_embeddings", "tree.csv embeddings.pth --measure", inputs="tree.csv embeddings.pth",
             writes="embeddings.md"),
        line("util_scripts.make_report", "--result_path results", inputs="results/val.json results/metrics.jsonl "
             "results/prototypes.json results/opts.json results", writes="results/report.html results/img"),
        *(line(script, HERE, "--n_videos 1 --no_img --no_cuda --heat upsample --out out",
               inputs=f"{CHECKPOINT} jpg ucf101_01.json")
          for script in ("local_analysis", "local_analysis_parents")),
        line("local_analysis", HERE, "--mistakes 1 --no_img --no_cuda --heat upsample --out out",
             inputs=f"{CHECKPOINT} results/metrics.json jpg")]


LINES: tuple[Line, ...] = (*_training(), *_attribution(), *_annotating(), *_preparing())
