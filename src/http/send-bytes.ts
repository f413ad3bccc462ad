import type { Readable } from 'node:stream'
import type { AnyReply } from './context.ts'

/** Send what is bytes already, past the schemas of the route, which describe the JSON in it. */
export function sendBytes(reply: AnyReply, contentType: string, payload: Uint8Array | Readable): void {
  reply.header('content-type', contentType)
  reply.send(payload)
}
