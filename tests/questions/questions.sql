-- events per hour
SELECT year, month, day, hour, count(*) FROM events GROUP BY ALL;
-- events of one app per day
SELECT day, count(*) FROM events WHERE app_id = 'shop' GROUP BY ALL;
-- most frequent types
SELECT event_category, event_type, count(*) FROM events GROUP BY ALL ORDER BY 3 DESC LIMIT 10;
-- one device's history
SELECT timestamp_ms, event_type FROM events WHERE device_id = 'device-4711' ORDER BY timestamp_ms;
-- one event
SELECT * FROM events WHERE id = '00000000-0000-7000-8000-000000012345';
-- ten minutes of one hour
SELECT event_type, count(*) FROM events WHERE timestamp_ms BETWEEN 1767236400000 AND 1767237000000 GROUP BY ALL;
-- devices per day
SELECT day, count(DISTINCT device_id) FROM events GROUP BY ALL;
-- purchases by app
SELECT app_id, count(*), sum((payload_json ->> 'total_cents')::BIGINT) FROM events
WHERE event_type = 'purchase_complete' GROUP BY ALL;
-- platforms
SELECT platform, os_version, count(*) FROM events GROUP BY ALL;
-- users that bought
SELECT count(DISTINCT user_id) FROM events WHERE event_type = 'purchase_complete' AND day = 1;
