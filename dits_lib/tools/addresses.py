"""Addresses: of pages, as text, and of the machines that they lie on."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from urllib.parse import quote, urldefrag, urljoin, urlsplit

MAX_ADDRESS = 2_000
"""Characters of a page's address. Longer ones are refused: agents are shown addresses, and a cache
keeps them."""

SCHEMES = ("http", "https", "site")
"""Of pages."""

_SITE, _STAND_IN = "site:///", "http://site.invalid/"


def encoded(url: str) -> str:
    """An address in ASCII: its host by IDNA, all else that an address may not hold percent-encoded,
    once.

    Raises:
        ValueError: for what is no address, or a longer one than `MAX_ADDRESS`.
    """
    if len(url) > MAX_ADDRESS:
        raise ValueError(f"longer than {MAX_ADDRESS} characters")
    parts = urlsplit(url)
    host = parts.netloc if parts.netloc.isascii() else parts.netloc.encode("idna").decode()
    found = (
        url
        if not parts.scheme
        else quote(url.replace(parts.netloc, host, 1), safe="%/:=&?~#+!$,;'@()*[]")
    )
    if len(found) > MAX_ADDRESS:
        raise ValueError(f"longer than {MAX_ADDRESS} characters when percent-encoded")
    return found


def site_address(path: str) -> str:
    """The address of a file of a local site, from its path below the folder.

    Raises:
        ValueError: for a name that is not UTF-8, or too long for an address.
    """
    return encoded(_SITE + path.replace("%", "%25"))


def joined(base: str, link: str) -> str:
    """A link's address, percent-encoded, without its fragment; empty for one that is no address of
    a page. `urljoin` does not know the scheme of a local site."""
    try:
        whole = urldefrag(urljoin(base.replace(_SITE, _STAND_IN, 1), link.strip()))[0]
        address = encoded(whole).replace(_STAND_IN, _SITE, 1)
    except ValueError:
        return ""
    return address if address.split(":")[0] in SCHEMES else ""


_PUBLIC_4 = (
    IPv4Network("0.0.0.0/0"),
    tuple(
        map(
            IPv4Network,
            (
                "0.0.0.0/8",  # this network
                "10.0.0.0/8",  # private
                "100.64.0.0/10",  # shared by a provider's customers
                "127.0.0.0/8",  # loopback
                "169.254.0.0/16",  # link-local
                "172.16.0.0/12",  # private
                "192.0.0.0/24",  # protocol assignments
                "192.0.2.0/24",  # documentation
                "192.31.196.0/24",  # AS112, answers for private names
                "192.52.193.0/24",  # multicast tunnels
                "192.88.99.0/24",  # 6to4 relays
                "192.168.0.0/16",  # private
                "192.175.48.0/24",  # AS112
                "198.18.0.0/15",  # benchmarks
                "198.51.100.0/24",  # documentation
                "203.0.113.0/24",  # documentation
                "224.0.0.0/4",  # multicast
                "240.0.0.0/4",  # reserved, broadcast
            ),
        )
    ),
)
_PUBLIC_6 = (
    IPv6Network("2000::/3"),
    tuple(
        map(
            IPv6Network,
            (
                "2001::/23",  # protocol assignments, Teredo among them
                "2001:db8::/32",  # documentation
                "2002::/16",  # 6to4, which holds an IPv4 address of any kind
                "2620:4f:8000::/48",  # AS112
                "3ffe::/16",  # the former test network
                "3fff::/20",  # documentation
            ),
        )
    ),
)
"""What is allowed, and what is not within it: IANA's registries of special-purpose addresses."""

_NAT64 = IPv6Network("64:ff9b::/96")


def is_public(address: str) -> bool:
    """Whether a machine's address belongs to the public internet.

    An IPv4 address within an IPv6 one (IPv4-mapped, NAT64) is judged in its place; the other ways
    to hold one (IPv4-compatible, 6to4, Teredo, a local NAT64) are refused with their ranges.

    Args:
        address: IPv4 or IPv6, with or without a zone.
    """
    found: IPv4Address | IPv6Address = ip_address(address.split("%")[0])
    if isinstance(found, IPv6Address):
        if found in _NAT64:
            found = IPv4Address(int(found) & 0xFFFFFFFF)
        else:
            found = found.ipv4_mapped or found
    allowed, without = _PUBLIC_4 if isinstance(found, IPv4Address) else _PUBLIC_6
    return found in allowed and not any(found in part for part in without)
