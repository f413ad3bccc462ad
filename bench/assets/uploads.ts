// How fast a large file is taken, and what it costs in memory, beside a handler that does nothing but write it.
import { createWriteStream, mkdtempSync, rmSync } from 'node:fs'
import { createServer, request as httpRequest } from 'node:http'
import type { AddressInfo } from 'node:net'
import { once } from 'node:events'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { Readable } from 'node:stream'
import { buffer } from 'node:stream/consumers'
import { pipeline } from 'node:stream/promises'
import { privateMemory } from '#worker/private-memory.ts'
import { freePort } from '../../test/support/postgres-server.ts'
import { ServiceProcess } from '../chaos/process.ts'

const token = `sepia_${'c'.repeat(43)}`
const chunk = Buffer.alloc(1 << 20, 'sepia ')

/** One way to take a file. */
export type Upload = { readonly what: string; readonly seconds: number; readonly privateBytes: number | null }

/** Bytes as a stream that nobody has to keep. */
function* bytesOf(sizeBytes: number): Generator<Buffer> {
  for (let left = sizeBytes; left > 0; left -= chunk.length) yield left < chunk.length ? chunk.subarray(0, left) : chunk
}

/** Send a body and give how long it took until the answer was there. */
async function put(url: string, sizeBytes: number): Promise<number> {
  const beganMs = performance.now()
  const outgoing = httpRequest(url, { method: 'PUT', headers: { 'content-length': sizeBytes } })
  const [[response]] = await Promise.all([
    once(outgoing, 'response'),
    pipeline(Readable.from(bytesOf(sizeBytes)), outgoing),
  ])
  const { statusCode } = response as { statusCode: number }
  const body = await buffer(response as Readable)
  if (statusCode >= 300) throw new Error(`PUT answered ${statusCode}: ${body.toString('utf8')}`)
  return (performance.now() - beganMs) / 1000
}

/** A handler that writes what comes to a file. */
async function bare(sizeBytes: number, folder: string): Promise<Upload> {
  const server = createServer((incoming, response) => {
    pipeline(incoming, createWriteStream(path.join(folder, 'bare'))).then(
      () => response.end(),
      (error: unknown) => response.destroy(error instanceof Error ? error : new Error(String(error))),
    )
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  const seconds = await put(`http://127.0.0.1:${(server.address() as AddressInfo).port}/`, sizeBytes)
  server.close()
  rmSync(path.join(folder, 'bare'))
  return { what: 'a bare handler, in this process', seconds, privateBytes: null }
}

/** The same by a signed URL of a server, hashed on the way; the most private memory that it had meanwhile. */
async function signed(sizeBytes: number, folder: string, model: string): Promise<Upload> {
  const port = await freePort()
  const argv = ['serve', '--port', `${port}`, '--data', path.join(folder, 'data'), '--model', model, '--threads', '1']
  const env = { SEPIA_TOKEN: token, SEPIA_CACHE: path.join(folder, 'cache') }
  const server = new ServiceProcess('server', argv, env, 'listens at')
  server.spawn()
  await server.ready()
  try {
    const created = await fetch(`http://127.0.0.1:${port}/v1/assets`, {
      method: 'POST',
      headers: { authorization: `Bearer ${token}`, 'content-type': 'application/json' },
      body: JSON.stringify({
        name: 'large',
        description: '',
        asset_type: 'checkpoint',
        data: {
          asset_type: 'checkpoint',
          engine: 'image/stable-diffusion-xl-v1-0',
          data_type: 'fp16',
          file_format: 'safetensors',
        },
      }),
    })
    if (!created.ok) throw new Error(`POST /v1/assets answered ${created.status}: ${await created.text()}`)
    const { transfer_api: transfer } = (await created.json()) as { transfer_api: { put_url: string } }
    let privateBytes = 0
    const sample = (): void =>
      void (privateBytes = Math.max(privateBytes, server.pid === undefined ? 0 : (privateMemory(server.pid) ?? 0)))
    sample()
    const timer = setInterval(sample, 100)
    const seconds = await put(transfer.put_url, sizeBytes)
    clearInterval(timer)
    return { what: 'PUT to a signed URL', seconds, privateBytes }
  } finally {
    await server.stop()
  }
}

/** Both ways with a file of `sizeBytes`, and the server's also with a small one, whose memory is that of a server at rest. */
export async function measureUploads(sizeBytes: number, model: string): Promise<readonly Upload[]> {
  const folder = mkdtempSync(path.join(tmpdir(), 'sepia-bench-'))
  try {
    const reference = await bare(sizeBytes, folder)
    const small = await signed(1 << 20, path.join(folder, 'small'), model)
    const large = await signed(sizeBytes, path.join(folder, 'large'), model)
    return [reference, { ...small, what: 'PUT of 1 MiB to a signed URL' }, large]
  } finally {
    rmSync(folder, { recursive: true, force: true })
  }
}
