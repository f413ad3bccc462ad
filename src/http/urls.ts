import type { AnyRequest, HttpContext } from './context.ts'

/** Where an asynchronous request is polled. */
export function requestUrl(context: HttpContext, request: AnyRequest, jobId: string): string {
  return `${originOf(context, request)}/v1/requests/${jobId}`
}

/** Where its answer is. */
export function responseUrl(context: HttpContext, request: AnyRequest, jobId: string): string {
  return `${originOf(context, request)}/v1/responses/${jobId}`
}

/** The origin of URLs in answers: the configured one, else the one under which this client reached the server. */
export function originOf({ options }: HttpContext, request: AnyRequest): string {
  return options.publicUrl ?? `${request.protocol}://${request.host}`
}
