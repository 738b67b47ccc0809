-- Purchases of the last thirty days, by app and currency: how many, by how many devices, worth how much.
-- Bar chart or table: X app_id (category), Y total, group by currency.
SELECT
    app_id,
    coalesce(nullif(json_extract_scalar(payload_json, '$.currency'), ''), 'unknown') AS currency,
    count(*) AS purchases,
    count(DISTINCT device_id) AS devices,
    -- A double: Redash loses the type of a decimal.
    coalesce(sum(CAST(json_extract_scalar(payload_json, '$.total_cents') AS bigint)), 0) / 1e2 AS total
FROM events
WHERE event_category = 'commerce'
    AND event_type = 'purchase_complete'
    AND date(format('%d-%02d-%02d', year, month, day)) >= current_date - INTERVAL '30' DAY
GROUP BY 1, 2
ORDER BY total DESC, app_id, currency
