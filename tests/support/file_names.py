"""Names of files as nobody should choose them, but may."""

import hypothesis.strategies as st

_PIECES = ("key=1", "C:", "a", "none", ".npy", ".safetensors", *":=,@ .~%#'\\\"\n\tüß…")
_ANY = st.characters(exclude_categories=["Cs"], exclude_characters="/\0")


def file_names():
    """Names of files in a folder; no longer than file systems allow."""
    names = st.lists(st.sampled_from(_PIECES) | _ANY, min_size=1, max_size=8).map("".join)
    names |= names.map("{}.safetensors".format)
    return names.filter(lambda name: name not in (".", "..") and len(name.encode()) < 200)
