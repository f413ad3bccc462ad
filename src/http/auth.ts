// Who asks: a bearer token is one account. On a server without tokens everybody on this machine is the same account.
import type { FastifyRequest } from 'fastify'
import type { Account } from '#service/accounts/account.ts'
import { AppError } from '../errors.ts'
import type { HttpContext } from './context.ts'

const bearer = /^Bearer +([\w.~+/-]{1,256}=*) *$/i
// A page of another site can make a browser send requests here under a name of its own that leads to this machine.
const ownNames = /^(localhost|127\.\d+\.\d+\.\d+|\[::1\])(:\d+)?$/i

/** The account that the request belongs to. Throws `unauthorized`, and `forbidden` for a foreign name of this machine. */
export async function accountOf(request: FastifyRequest, { services, options }: HttpContext): Promise<Account> {
  if (options.everybody) {
    if (!ownNames.test(request.host))
      throw new AppError(
        'forbidden',
        `a server without tokens answers to localhost and 127.0.0.1 only, not to ${JSON.stringify(request.host.slice(0, 100))}`,
      )
    return options.everybody
  }
  const { authorization } = request.headers
  if (!authorization) throw new AppError('unauthorized', 'a token is missing: send it as Authorization: Bearer sepia_…')
  const token = bearer.exec(authorization)?.[1]
  const account = token === undefined ? null : await services.authenticate(token)
  if (!account) throw new AppError('unauthorized', 'the token is not known, or no longer')
  return account
}
