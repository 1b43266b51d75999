// What a user of artillery adds to look at pushes: its own steps only see the answer to a message that they have sent.
'use strict';

module.exports = { listen };

function listen(context, events, done) {
  let last = 0;
  context.ws.on('message', (raw) => {
    const message = JSON.parse(raw);
    if (message.type !== 'publication') return;
    if (last && message.prev !== last) events.emit('error', 'out of order');
    last = message.offset;
    events.emit('counter', 'received', 1);
    events.emit('histogram', 'delivery', Date.now() - message.data.t / 1000);
  });
  done();
}
