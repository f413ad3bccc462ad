// `sepia styles`: what a picture can look like.
import { stylePresetNames, stylePresets } from '#diffusion/style-presets.ts'
import type { Terminal } from './terminal.ts'

/** The options of `sepia styles`, as typed. */
export type StylesOptions = { readonly json?: boolean }

/** Print the styles in the table's order; with --json an object name → {template, negative}. */
export function styles(options: StylesOptions, { stdout }: Terminal): void {
  if (options.json) {
    stdout.write(`${JSON.stringify(stylePresets)}\n`)
    return
  }
  const blocks = stylePresetNames.map((name) => {
    const { negative, template } = stylePresets[name]
    return [name, `  ${template}`, ...(negative === '' ? [] : [`  not ${negative}`])].join('\n')
  })
  stdout.write(`${blocks.join('\n')}\n`)
}
