// A hub of our own: the three paths of the Hugging Face API that we use, with its paging, ranges and refusals.
import { createHash } from 'node:crypto'
import { startFileServer, type FileServer } from './file-server.ts'

/** What every revision of every repository stands for. */
export const hubCommit = '0123456789abcdef0123456789abcdef01234567'

/** Repository → path → content. Files of weights are large ones to the hub, which it knows by their hash. */
export type HubContents = Readonly<Record<string, Readonly<Record<string, string | Buffer>>>>

/** Start a hub; with a token it shows its repositories to nobody else. */
export function startHub(contents: HubContents, options: { token?: string } = {}): Promise<FileServer> {
  return startFileServer((incoming, response) => {
    const url = new URL(incoming.url ?? '', 'http://hub')
    const place = decodeURIComponent(url.pathname)
    const allowed = options.token === undefined || incoming.headers.authorization === `Bearer ${options.token}`
    const json = (body: unknown, headers: Record<string, string> = {}): void =>
      void response.writeHead(200, { 'content-type': 'application/json', ...headers }).end(JSON.stringify(body))
    const info = /^\/api\/models\/([^/]+\/[^/]+)\/revision\/(.+)$/.exec(place)
    const tree = /^\/api\/models\/([^/]+\/[^/]+)\/tree\/([^/]+)\/?$/.exec(place)
    const file = /^\/([^/]+\/[^/]+)\/resolve\/([^/]+)\/(.+)$/.exec(place)
    const files = contents[(info ?? tree ?? file)?.[1] ?? '']
    if (!allowed || files === undefined) return void response.writeHead(allowed ? 404 : 401).end('{}')
    if (info)
      return json({ _id: 'x', id: info[1], sha: hubCommit, gated: false, private: false, downloads: 1, likes: 1 })
    if (tree) {
      // A page a file, so that the links are followed.
      const names = Object.keys(files).sort()
      const index = Number(url.searchParams.get('cursor') ?? 0)
      const link = `<http://${incoming.headers.host}${url.pathname}?recursive=true&cursor=${index + 1}>; rel="next"`
      return json([entryOf(names[index], files[names[index]])], index + 1 < names.length ? { link } : {})
    }
    const content = file ? files[file[3]] : undefined
    if (content === undefined || file?.[2] !== hubCommit) return void response.writeHead(404).end('{}')
    const bytes = Buffer.from(content)
    const from = Number(/^bytes=(\d+)-$/.exec(incoming.headers.range ?? '')?.[1] ?? 0)
    const range = { 'content-range': `bytes ${from}-${bytes.length - 1}/${bytes.length}` }
    return void response.writeHead(from > 0 ? 206 : 200, from > 0 ? range : {}).end(bytes.subarray(from))
  })
}

function entryOf(path: string, content: string | Buffer) {
  const size = Buffer.byteLength(content)
  const entry = { type: 'file', path, size, oid: '0'.repeat(40) }
  if (!path.endsWith('.safetensors')) return entry
  return { ...entry, lfs: { oid: createHash('sha256').update(content).digest('hex'), size, pointerSize: 130 } }
}
