-- Events per hour (UTC) and app of the last seven days.
-- Line or area chart: X hour (datetime), Y events, group by app_id. Reads no column of the files.
SELECT
    app_id,
    -- A text, since Redash loses the type of a timestamp.
    format('%d-%02d-%02dT%02d:00:00Z', year, month, day, hour) AS hour,
    count(*) AS events
FROM events
WHERE date(format('%d-%02d-%02d', year, month, day)) >= current_date - INTERVAL '7' DAY
GROUP BY app_id, year, month, day, hour
ORDER BY hour, app_id
