"""Ask people about explanations: python -m util_scripts.study results/local_analysis results/local_analysis_parents

Two pages after HIVE (Kim et al., ECCV 2022), for video: agreement.html asks how alike a part of a video and the
prototype are that the model compares it with, distinction.html which of four explanations belongs to the right answer.
Each is one file that works without a network; key.json holds the right answers and stays with you. Participants
download their answers as a CSV: python -m util_scripts.study --score answers/*.csv --key study/key.json
"""

import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # also where it is called by its path

from explain.study import StudySettings, make_study, read_answers, read_key, score, write_scores
from options.errors import CommandLine, user_errors
from options.ranges import AMOUNT, COUNT


def main(argv: Sequence[str] | None = None) -> None:
    parser = CommandLine(prog="python -m util_scripts.study", description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("folders", nargs="*", type=Path, metavar="FOLDER",
                        help="explained videos, as local_analysis.py and local_analysis_parents.py write them")
    parser.add_argument("--out", type=Path, help="folder to write (default: study; with --score that of the key)")
    parser.add_argument("--n_questions", type=COUNT, default=20,
                        help="questions a participant, fewer where there are not as many (default: 20)")
    parser.add_argument("--pool", type=COUNT, default=40,
                        help="questions on a page at most, from which those of a participant are drawn (default: 40)")
    parser.add_argument("--checks", type=AMOUNT, default=2, help="attention checks a participant (default: 2)")
    parser.add_argument("--seed", type=int, default=1, help="of what is drawn (default: 1)")
    parser.add_argument("--score", nargs="+", type=Path, metavar="CSV", help="evaluate answers")
    parser.add_argument("--key", type=Path, help="key.json of the pages (default: in the folder of --out)")
    args = parser.parse_args(argv)
    if args.score:
        if args.folders:
            raise ValueError("FOLDER and --score contradict each other; make a study or evaluate one")
        for name in ("n_questions", "pool", "checks", "seed"):
            if getattr(args, name) != parser.get_default(name):
                raise ValueError(f"--{name} is of a study that is made; leave it out beside --score")
        evaluate(args.score, args.key or (args.out or Path("study")) / "key.json", args.out)
        return
    if not args.folders:
        raise ValueError("no explained videos; give their folder, such as results/local_analysis, or answers as "
                         "--score")
    if args.key is not None:
        raise ValueError("--key goes with --score; leave it out")
    make(args.folders, args.out or Path("study"), StudySettings(
        n_questions=args.n_questions, pool=args.pool, checks=args.checks, seed=args.seed))


def make(folders: Sequence[Path], out: Path, settings: StudySettings) -> None:
    """Write the pages and the key of a study."""
    study = make_study(folders, settings)
    for page in study.write(out):
        asked = study.questions[page.stem]
        print(f"{page}: {sum(not one['check'] for one in asked)} questions, {page.stat().st_size / 1e6:.1f} MB")
    for task, asked in study.questions.items():
        if not asked:
            print(f"warning: no page of {task}: no explained video has " + (
                "four nodes on a level whose prototypes could be shown" if task == "distinction" else
                "a prototype that could be shown"), file=sys.stderr)
    print(f"{out / 'key.json'}: the answers; do not pass it on")


def evaluate(paths: Sequence[Path], key: Path, out: Path | None) -> None:
    """Write what the answers come to, and print it."""
    content = read_key(key)
    scores = score(read_answers(paths, content), content)
    for path in write_scores(scores, out or key.parent):
        print(path)
    for task, table in scores.tables.items():
        whole = table.iloc[0] if len(table) else None
        if whole is None:
            print(f"{task}: every participant failed an attention check, or left one out")
        elif task == "agreement":
            print(f"agreement: {whole['mean']:.2f} of 4, {whole['answers']} answers, {scores.counted[task]} people")
        else:
            print(f"distinction: {whole['accuracy']:.2f} right, by chance {whole['chance']:.2f}, p = {whole['p']:.2g}, "
                  f"{whole['answers']} answers, {scores.counted[task]} people")


if __name__ == "__main__":
    with user_errors():
        main()
