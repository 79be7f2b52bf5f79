"""Print the JSON Schema of the configuration, or write all that is generated into a folder.

python -m rekeyd.config > config/rekeyd.schema.json
python -m rekeyd.config config
"""

import sys

from rekeyd.config.reference import schema_text, write

if sys.argv[1:]:
    write(sys.argv[1])
else:
    sys.stdout.write(schema_text())
