"""The messages of the kernel's nbd family, as pyroute2 wants them described: attributes in the order of linux/nbd-netlink.h."""

from __future__ import annotations

from pyroute2.netlink import genlmsg, nla


class NbdMessage(genlmsg):  # type: ignore[misc]
    """A message of the family, as pyroute2 wants it described."""

    prefix = "NBD_ATTR_"
    nla_map = (
        ("NBD_ATTR_UNSPEC", "none"),
        ("NBD_ATTR_INDEX", "uint32"),
        ("NBD_ATTR_SIZE_BYTES", "uint64"),
        ("NBD_ATTR_BLOCK_SIZE_BYTES", "uint64"),
        ("NBD_ATTR_TIMEOUT", "uint64"),
        ("NBD_ATTR_SERVER_FLAGS", "uint64"),
        ("NBD_ATTR_CLIENT_FLAGS", "uint64"),
        ("NBD_ATTR_SOCKETS", "sockets"),
        ("NBD_ATTR_DEAD_CONN_TIMEOUT", "uint64"),
        ("NBD_ATTR_DEVICE_LIST", "hex"),
        ("NBD_ATTR_BACKEND_IDENTIFIER", "asciiz"),
    )

    class sockets(nla):  # type: ignore[misc]  # noqa: N801 (pyroute2 looks it up by this name)
        """NBD_SOCK_ITEM: one nested attribute a socket."""

        nla_map = (("NBD_SOCK_ITEM_UNSPEC", "none"), ("NBD_SOCK_ITEM", "item"))

        class item(nla):  # type: ignore[misc]  # noqa: N801
            """NBD_SOCK_FD: a descriptor of the process that asks."""

            nla_map = (("NBD_SOCK_UNSPEC", "none"), ("NBD_SOCK_FD", "uint32"))
