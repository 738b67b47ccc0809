-- The twenty most frequent types of events of the last seven days.
-- Bar chart: X event (category), Y events.
SELECT
    event_category || '.' || event_type AS event,
    count(*) AS events,
    count(DISTINCT device_id) AS devices
FROM events
WHERE date(format('%d-%02d-%02d', year, month, day)) >= current_date - INTERVAL '7' DAY
GROUP BY event_category, event_type
ORDER BY events DESC, event
LIMIT 20
