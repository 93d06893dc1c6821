-- A job is updated twice in a plain life. With half a page free its first update stays in the page and touches no
-- index: 6 % less WAL and 10 % less time in PostgreSQL than with 30 % free.
alter table jobs set (fillfactor = 50);
