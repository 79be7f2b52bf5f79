"""Print the JSON Schema of the configuration, or write all that is generated into a folder.

python -m rekeyd.config > config/rekeyd.schema.json
python -m rekeyd.config config
"""

import json
import sys
from pathlib import Path

from rekeyd.config.reference import json_schema, with_tables


def main(folder: str | None = None) -> None:
    schema = json.dumps(json_schema(), indent=2) + "\n"
    if folder is None:
        sys.stdout.write(schema)
        return
    Path(folder, "rekeyd.schema.json").write_text(schema, encoding="utf-8")
    readme = Path(folder, "README.md")
    readme.write_text(with_tables(readme.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:2])
