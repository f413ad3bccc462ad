// `sepia samplers`: the ways from noise to a picture.
import { samplerNames, samplers as table } from '#diffusion/samplers.ts'
import type { Terminal } from './terminal.ts'

/** The options of `sepia samplers`, as typed. */
export type SamplersOptions = { readonly json?: boolean }

const head = ['SAMPLER', 'RUNS', 'NOISE', 'STEPS', 'PRICE', 'AS IN DIFFUSERS']

/** Print the samplers in the table's order; with --json an object name → what is known of it. */
export function samplers(options: SamplersOptions, { stdout }: Terminal): void {
  if (options.json) {
    const entries = samplerNames.map((name) => {
      const { diffusers, order, stochastic, premium, maxSteps } = table[name]
      return [name, { diffusers, order, stochastic, premium, maxSteps, karrasSigmas: 'karrasSigmas' in table[name] }]
    })
    stdout.write(`${JSON.stringify(Object.fromEntries(entries))}\n`)
    return
  }
  const rows = samplerNames.map((name) => {
    const { diffusers, order, stochastic, premium, maxSteps } = table[name]
    const karras = 'karrasSigmas' in table[name] ? ', Karras sigmas' : ''
    return [
      name,
      String(order),
      stochastic ? 'fresh' : 'first',
      `1..${maxSteps}`,
      premium ? 'double' : '',
      diffusers + karras,
    ]
  })
  const widths = head.map((title, column) => Math.max(title.length, ...rows.map((row) => row[column].length)))
  for (const row of [head, ...rows])
    stdout.write(
      `${row
        .map((cell, column) => cell.padEnd(widths[column]))
        .join('  ')
        .trimEnd()}\n`,
    )
}
