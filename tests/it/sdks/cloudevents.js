// `cloudevents`; see sending.js. Sending again is up to its caller.

const { pause, run } = require('./sending.js');
const { CloudEvent, Mode, emitterFor, httpTransport } = require('cloudevents');

const [url, key] = process.argv.slice(2);
const transport = httpTransport(`${url}/v1/events/ingest`);
const headers = { 'x-api-key': key };
const modes = [Mode.BINARY, Mode.STRUCTURED].map((mode) => emitterFor(transport, { mode }));

const cloudEvent = (attributes) =>
  new CloudEvent({ source: '/orders', subject: 'cart é', userid: 'cloudevents-npm', ...attributes });

// Until it is answered: without an answer it is not known whether the event is stored.
async function until_answered(send) {
  for (;;) {
    try {
      const { body } = await send();
      const answer = JSON.parse(body);
      if (answer.status !== 503) return answer;
    } catch (error) {
      if (!error.code) throw error;
    }
    await pause(100);
  }
}

async function stored(send) {
  const answer = await until_answered(send);
  const results = answer.results ?? [answer];
  if (results.some((result) => result.status !== 'accepted')) throw new Error(JSON.stringify(answer));
}

const batch = (events) => ({
  headers: { 'content-type': 'application/cloudevents-batch+json; charset=utf-8' },
  body: JSON.stringify(events),
});

run({
  first: async () => {
    const kinds = [
      { id: 'json', data: { amount: 12.5 }, datacontenttype: 'application/json' },
      { id: 'text', data: 'héllo', datacontenttype: 'text/plain' },
      { id: 'bytes', data: new Uint8Array([0, 255]), datacontenttype: 'application/octet-stream' },
      { id: 'none' },
    ].map((attributes) => cloudEvent({ type: 'order.paid', ...attributes }));
    // The same events in each mode; without data there is no body that the binary mode could send.
    for (const event of kinds) {
      if (event.data !== undefined) await stored(() => modes[0](event, { headers }));
      await stored(() => modes[1](event, { headers }));
    }
    await stored(() => transport(batch(kinds), { headers }));
  },
  numbered: (number) => {
    const time = new Date().toISOString();
    const event = cloudEvent({ type: 'Counted', id: `${number}`, time, data: { number } });
    return stored(() => modes[number % modes.length](event, { headers }));
  },
  finish: async () => {},
});
