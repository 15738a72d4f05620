import sys

from tuition.cli import main

sys.exit(main())
