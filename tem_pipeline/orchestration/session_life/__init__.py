"""The life of a session: from a folder that arrives to tables that are processed, failed or parked.

Read in this order:

- `states`: the table of all states, and how a session's state is judged
- `folders`, `observations`: what incoming/ shows, and what is remembered of it from tick to tick
- `session_tables`, `survey`: what the tables say, and the state of every session
- `requests`: which runs are needed, judged from the content, the tables and past runs
- `sensors`, `schedules`: ask for those runs at arrival and at night
- `failures`, `abandoned_runs`: failed runs are recorded, and dead runs are found
- `reprocessing`, `overview`: what people ask for, and what they see in Dagster's pages
"""
