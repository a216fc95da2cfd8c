"""`python -m fedrl` is the command `fedrl`."""

from fedrl.cli import main

main()
