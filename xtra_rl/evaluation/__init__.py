"""Playing with a policy, and what is said about it: scores, tables, pictures and videos."""
