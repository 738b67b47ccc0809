// `@rudderstack/rudder-sdk-node`; see sending.js.

const { LateDate, pause, run } = require('./sending.js');
globalThis.Date = LateDate;
const Analytics = require('@rudderstack/rudder-sdk-node');

const [url, writeKey] = process.argv.slice(2);
// By default it gives a batch up after three attempts in a second and a half.
const analytics = new Analytics(writeKey, { dataPlaneUrl: url, flushInterval: 50, retryCount: 10, logLevel: 'none' });
const userId = 'rudder-sdk-node';
const failed = [];
let waiting = 0;
const answered = (error) => {
  waiting -= 1;
  if (error) failed.push(error.message);
};
const send = (call, message) => {
  waiting += 1;
  analytics[call]({ userId, ...message }, answered);
};

run({
  first: async () => {
    send('identify', { anonymousId: 'a', traits: { email: 'é@example.com' } });
    send('track', { event: 'Order Completed', properties: { order_id: 'o', total: 9.99 } });
    send('page', { name: 'Intro', properties: { path: '/docs' } });
    send('screen', { name: 'Home' });
    send('group', { groupId: 'g', traits: { name: 'Acme' } });
    send('alias', { previousId: 'old' });
  },
  numbered: (number) => send('track', { event: 'Counted', properties: { number } }),
  finish: async () => {
    while (waiting > 0) {
      analytics.flush().catch(() => {});
      await pause(50);
    }
    if (failed.length > 0) throw new Error(JSON.stringify(failed));
  },
});
