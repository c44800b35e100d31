"""What a verb looks like when it is used: lines that can be pasted, for its `--help`."""

from __future__ import annotations

EXAMPLES: dict[str, tuple[str, ...]] = {
    "create": (
        "cdp create disk --size 10GiB",
        "cdp create vm --origin /images/vm.raw",
    ),
    "serve": (
        "cdp serve",
        "cdp serve --listen tcp:127.0.0.1:10809 --metrics tcp:127.0.0.1:9423",
    ),
    "list": ("cdp list", "cdp list --json"),
    "show": ("cdp show disk",),
    "rename": ("cdp rename disk old-disk",),
    "resize": ("cdp resize disk --size 200GiB",),
    "delete": ("cdp delete disk", "cdp undelete disk"),
    "undelete": ("cdp undelete disk",),
    "log": ("cdp log disk --since -1h", "cdp log disk --since -1d --interval 1h"),
    "bookmark": (
        "cdp bookmark disk before-upgrade",
        "cdp bookmark disk nightly --at -1h --expires 30d --force",
        "cdp bookmark disk steady --freeze /srv",
    ),
    "diff": ("cdp diff disk -1h latest", "cdp diff disk bookmark:nightly latest"),
    "restore": (
        "cdp restore disk --at -5m --to disk.raw",
        "cdp restore disk --at 2026-11-22T10:48:20Z --to /dev/vdb --verify",
    ),
    "attach": ("cdp attach disk", "cdp attach disk@-5m --mount /mnt/then"),
    "detach": ("cdp detach /dev/loop0",),
    "ls": ("cdp ls disk@-5m:/home",),
    "cp": ("cdp cp disk@-5m:/home/lost.txt .",),
    "rollback": ("cdp rollback disk --to -10m", "cdp rollback disk --undo"),
    "clone": ("cdp clone disk@-5m test",),
    "scratch": ("cdp scratch disk", "cdp scratch disk --release try"),
    "retention": ("cdp retention disk --every-write 2d --budget 100GiB",),
    "compact": ("cdp compact disk",),
    "verify": ("cdp verify disk", "cdp verify disk --rate 50MiB/s"),
    "accept-origin": ("cdp accept-origin vm",),
}


def epilog(verb: str, terms: str | None = None) -> str:
    """The end of a verb's help: `terms` that it uses, then its examples, a line each."""
    examples = EXAMPLES[verb]
    head = "Examples:" if len(examples) > 1 else "Example:"
    return "\n\n".join([*([terms] if terms else []), head, *(f"  {line}" for line in examples)])
