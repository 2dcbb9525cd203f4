"""Tests of the accounts, on SQLite and on PostgreSQL where there is one."""
