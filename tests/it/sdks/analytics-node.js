// `@segment/analytics-node`; see sending.js.

const { LateDate, run } = require('./sending.js');
globalThis.Date = LateDate;
const { Analytics } = require('@segment/analytics-node');

const [url, writeKey] = process.argv.slice(2);
const analytics = new Analytics({ writeKey, host: url, flushInterval: 50 });
const failed = [];
analytics.on('error', (error) => failed.push(error));
const userId = 'analytics-node';

run({
  first: async () => {
    analytics.identify({ userId, anonymousId: 'a', traits: { email: 'é@example.com' } });
    analytics.track({ userId, event: 'Order Completed', properties: { order_id: 'o', total: 9.99 } });
    analytics.page({ userId, category: 'docs', name: 'Intro', properties: { path: '/docs' } });
    analytics.screen({ userId, name: 'Home' });
    analytics.group({ userId, groupId: 'g', traits: { name: 'Acme' } });
    analytics.alias({ userId, previousId: 'old' });
  },
  numbered: (number) => analytics.track({ userId, event: 'Counted', properties: { number } }),
  finish: async () => {
    await analytics.flush({ close: true });
    if (failed.length > 0) throw new Error(JSON.stringify(failed));
  },
});
