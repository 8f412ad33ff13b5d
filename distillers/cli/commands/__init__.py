"""The subcommands, one file each, with a `main(args)`."""
