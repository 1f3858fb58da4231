"""hotproxy: a network proxy that can be changed, upgraded, crashed and misconfigured without losing a connection.

Start reading at docs/architecture.md; the words are in docs/glossary.md.
"""

from hotproxy import data_path

__version__ = "0.1.0"

data_path.install(__path__[0])
