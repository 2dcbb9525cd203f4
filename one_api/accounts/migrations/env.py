"""How Alembic runs the changes: in the transaction of the connection that ``one_api.accounts.migrate`` hands over."""

from alembic import context

context.configure(connection=context.config.attributes["connection"])
context.run_migrations()
