// An S3 server of our own for a test: moto's, in memory, on a port that is free.
import { CreateBucketCommand, S3Client } from '@aws-sdk/client-s3'
import { spawn } from 'node:child_process'
import type { S3Place } from '../../src/service/files/s3-blob-store.ts'
import { freePort } from './postgres-server.ts'
import { pythonTool } from './python-tools.ts'

/** A running server. */
export type S3Server = AsyncDisposable & {
  /** Makes an empty bucket. */
  readonly makeBucket: (name: string) => Promise<S3Place>
}

const credentials = { accessKeyId: 'test', secretAccessKey: 'test' }
const region = 'us-east-1'

/** Start a server; it is ended on disposal, or when this process ends. */
export async function startS3(): Promise<S3Server> {
  const port = await freePort()
  const endpoint = `http://127.0.0.1:${port}`
  const child = spawn(pythonTool('moto_server'), ['-H', '127.0.0.1', '-p', `${port}`], {
    stdio: ['ignore', 'ignore', 'pipe'],
  })
  const ended = new Promise<void>((resolve) => void child.once('exit', () => resolve()))
  const kill = (): void => void child.kill('SIGKILL')
  process.once('exit', kill)
  let output = ''
  await new Promise<void>((resolve, reject) => {
    child.stderr.setEncoding('utf8').on('data', (text: string) => {
      output += text
      if (output.includes('Running on')) resolve()
    })
    child.once('error', reject)
    child.once('exit', (code) => reject(new Error(`moto_server ended with ${code}: ${output}`)))
  })
  // From here on its words are read and dropped, so that it never waits for a full pipe.
  child.stderr.removeAllListeners('data').resume()
  return {
    makeBucket: async (bucket) => {
      const client = new S3Client({ endpoint, region, credentials, forcePathStyle: true })
      await client.send(new CreateBucketCommand({ Bucket: bucket }))
      client.destroy()
      return { bucket, endpoint, region, ...credentials, prefix: '' }
    },
    [Symbol.asyncDispose]: async () => {
      process.removeListener('exit', kill)
      kill()
      await ended
    },
  }
}
