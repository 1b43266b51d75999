// Bun.serve: echo, and publish to the topic that whoever came by /subscribe is subscribed to.
// Usage: bun bun_server.js PORT
const server = Bun.serve({
  hostname: "127.0.0.1",
  port: Number(process.argv[2]),
  fetch(request, server) {
    const path = request.url.slice(request.url.lastIndexOf("/"));
    if (server.upgrade(request, { data: path })) return;
    return new Response("a WebSocket is wanted", { status: 426 });
  },
  websocket: {
    idleTimeout: 600,
    open(socket) {
      if (socket.data === "/subscribe") {
        socket.subscribe("bench");
        socket.send("subscribed");
      }
    },
    message(socket, message) {
      if (socket.data === "/publish") server.publish("bench", message);
      else socket.send(message);
    },
  },
});
