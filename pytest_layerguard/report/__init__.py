"""Reports of judged bets: lines, tables and files. Nothing here measures or judges."""
