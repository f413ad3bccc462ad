import { AppError } from '../../errors.ts'
import type { HttpServer } from '../context.ts'

/** Paths of the API whose features are not there yet: a 404 that says so, which clients do not repeat. */
export const unfinishedPaths: Readonly<Record<string, string>> = {
  '/generate/controlnet-sdxl': 'ControlNet',
  '/v1/tune': 'fine-tuning',
  '/v1/tunes': 'fine-tuning',
}

/** Answer whatever no route takes. */
export function addNotFound(server: HttpServer): void {
  server.setNotFoundHandler((request) => {
    const path = request.url.split('?', 1)[0]
    const unfinished = Object.keys(unfinishedPaths).find((start) => path === start || path.startsWith(`${start}/`))
    if (unfinished) throw new AppError('not_found', `${unfinishedPaths[unfinished]} is not there yet on this server`)
    throw new AppError(
      'not_found',
      `there is no ${request.method} ${path.slice(0, 200)}; GET /docs shows what there is`,
    )
  })
}
