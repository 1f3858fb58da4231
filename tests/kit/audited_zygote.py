"""hotproxy's own zygote, which says on stderr what it or a child of it imports after it has begun to fork."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from hotproxy.zygote import __main__ as entry
from hotproxy.zygote import begin
from hotproxy.zygote.main import Zygote


class Audited(Zygote):
    def run(self) -> int:
        def on_event(event: str, arguments: tuple[Any, ...]) -> None:
            if event == "import":
                os.write(2, f"late import: {arguments[0]}\n".encode())

        sys.addaudithook(on_event)
        return super().run()


if __name__ == "__main__":
    begin.Zygote = Audited  # type: ignore[misc]
    sys.exit(entry.main())
