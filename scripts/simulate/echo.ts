// node dist/scripts/simulate/echo.js tcp://host:port
/**
 * Sends every data message back, as a worker handles them: the other side of calibrate.ts.
 * Prints its endpoint; ends when its standard input does.
 *
 * @module
 */
import { bytesOf, floatsOf } from "../../shared/frames.ts";
import { Outbox } from "../../shared/outbox.ts";
import { decodeHeader, encodeHeader } from "../../shared/header.ts";
import { pull, push, receiveAll } from "../../shared/sockets.ts";
import { SEGMENT_FLOATS } from "../../worker/collective.ts";
import { parsePeerMessage } from "../../worker/data-messages.ts";

const receiver = pull({ maxFrameBytes: SEGMENT_FLOATS * 4 + 4096, key: null });
await receiver.bind("tcp://127.0.0.1:*");
const sender = push(null);
sender.connect(process.argv[2]);
const outbox = new Outbox(sender, (error) => {
  throw error;
});
process.stdin.resume().once("end", () => {
  sender.close();
  receiver.close();
});
console.log(receiver.lastEndpoint);
await receiveAll(receiver, ([header, values]) => {
  const message = parsePeerMessage(decodeHeader(header));
  if (message.type === "attached") return;
  outbox.push([encodeHeader(message), bytesOf(floatsOf(values, message.end - message.start))]);
});
