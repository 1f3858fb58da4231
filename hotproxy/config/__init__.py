"""The config: YAML text to one immutable `Config`, and every mistake in it with file, line and column.

address     where to listen and where to connect
model       the types that the data path reads
problems    what is wrong, and where; rendering for people and for machines
sources     reading files: permissions, encoding, size, environment files
yaml_nodes  text -> nodes with places (YAML 1.2 core schema); yaml_mistakes explains broken text
scalars     one scalar's text -> duration, number, name, domain ...
shapes      which fields exist, in which section
fields      reading the fields of one section; collector gathers the problems
clusters, listeners, routes, tcp, tls, proxy_header   nodes -> model; certificate looks into the files that they name
references  what no section can see alone: duplicate names, clashing addresses, dangling clusters
load        all of it in order, over all included files
on_disk     whether the files are still those that were read; last_good: what served, kept for a broken file
effective, merged   back to YAML: with every default; as the files say it
"""

from hotproxy.config.load import Examined, examine, examine_text, load, load_text
from hotproxy.config.problems import ConfigErrors, ConfigProblem, render_json, render_text

__all__ = [
    "ConfigErrors", "ConfigProblem", "Examined", "examine", "examine_text",
    "load", "load_text", "render_json", "render_text",
]  # fmt: skip
