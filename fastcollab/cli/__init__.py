"The command `fastcollab`, one module per subcommand."
