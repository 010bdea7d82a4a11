"""Pack the frame folders of a data set into a few large files and an index, for --file_type packed.

Every file is a copy of the JPEG files' own bytes; pictures of other formats are converted. The index is written last: a
folder without it is not complete. Where a packed set lies already, the new files have other numbers, and the old ones
go when the new index has taken the place of theirs, so that one of the two sets is whole at any moment.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # also where it is called by its path

from options.errors import CommandLine, user_errors
from util_scripts.storing import pack


def main(argv: list[str] | None = None) -> None:
    parser = CommandLine(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("jpg_dir", type=Path, help="folder of frame folders, by generate_video_jpgs or others")
    parser.add_argument("out_dir", type=Path, help="folder to write the shards and index.npy to")
    parser.add_argument("--shard_gb", type=float, default=4.0, help="GB of one file at most (default: 4)")
    args = parser.parse_args(argv)
    with user_errors():
        if not 0 < args.shard_gb < 1e9:
            raise ValueError(f"--shard_gb must be above 0, and finite, not {args.shard_gb}")
        videos, shards, broken = pack(args.jpg_dir, args.out_dir, shard_bytes=int(args.shard_gb * 1e9))
        for sentence in broken:
            print(f"left out: {sentence}", file=sys.stderr)
    print(f"{args.out_dir}: {videos} videos in {shards} files; {len(broken)} could not be read")


if __name__ == "__main__":
    main()
