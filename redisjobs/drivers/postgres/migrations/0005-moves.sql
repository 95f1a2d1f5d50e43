-- Where a mover took a schedule when it paused it; '': no mover did.
alter table redisjobs.schedules add column moved_to text not null default '';

-- Jobs from another store that this one refused, by their places there: see redisjobs/model/moving.py.
create table redisjobs.refused (queue text not null, source text not null, place text not null, primary key (queue, source, place));
