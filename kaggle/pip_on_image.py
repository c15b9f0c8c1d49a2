"""Run pip as if on the Python of a Kaggle image; called by `wheelhouse`.

    python -I -S pip_on_image.py SITE 3.12 install --dry-run ...

SITE holds pip and the metadata of the image's packages. pip's option --python-version only selects
wheels: pip still evaluates the markers of requirements (``; python_version > "3.11"``) for the
Python that runs it. This script makes it evaluate them for the image.
"""

import sys

site, version, *arguments = sys.argv[1:]
sys.path.append(site)

from pip._internal.cli.main import main  # noqa: E402
from pip._vendor.packaging import markers  # noqa: E402

running = markers.default_environment


def on_image():
    return running() | {"python_version": version, "python_full_version": f"{version}.0"}


markers.default_environment = on_image
sys.exit(main(arguments))
