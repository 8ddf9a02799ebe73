"""What is done with bet files from the command line, without a test run."""
