"""Links to public names by their short address: ``vlmcourse.patchify`` for ``vlmcourse.ops.patches.patchify``."""

from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment

import vlmcourse


def resolve(
    app: Sphinx, env: BuildEnvironment, node: pending_xref, contnode: nodes.TextElement
) -> nodes.Element | None:
    """Look a name up where the package says it comes from; methods follow their class."""
    if node.get("refdomain") != "py" or app.builder is None:
        return None
    name, dot, member = node["reftarget"].removeprefix("vlmcourse.").partition(".")
    if name not in vlmcourse._EXPORTS:
        return None
    target = f"{vlmcourse._EXPORTS[name]}.{name}{dot}{member}"
    return env.get_domain("py").resolve_xref(env, node["refdoc"], app.builder, node["reftype"], target, node, contnode)


def setup(app: Sphinx) -> None:
    """Ask us about every name that nobody else knows."""
    app.connect("missing-reference", resolve)
