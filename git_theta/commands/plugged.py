"""Plug-ins as the core asks for them: by the names that manifests use."""

from __future__ import annotations

from git_theta import registry
from git_theta.core.checkpoint import Plugins

PLUGINS = Plugins(
    updates=lambda name: registry.load("updates", name),
    formats=lambda name: registry.load("formats", name),
)
