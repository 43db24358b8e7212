package simulate

const svgText = `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {{.Width}} {{.Height}}" role="img" font-family="system-ui, 'DejaVu Sans', sans-serif" font-size="11" fill="#333">
<title>{{.Verdict}}</title>
<rect width="100%" height="100%" fill="#fff"/>
<text x="20" y="28" font-size="14.5" font-weight="bold" fill="#111">{{.Verdict}}</text>
<text x="20" y="48" font-size="12">{{.Title}}</text><text x="20" y="64" fill="#666">{{.Note}}</text>
<text x="20" y="92" font-weight="bold">Entries in the table</text>
{{range .YTicks}}<path d="M78 {{.At}}H812" stroke="#e4e4e4"/><text x="72" y="{{.At}}" dy="4" text-anchor="end">{{.Label}}</text>
{{end}}{{range .XTicks}}<text x="{{.At}}" y="340" text-anchor="middle">{{.Label}}</text>
{{end}}{{range .Runs}}{{if .MaxPath}}<path d="{{.MaxPath}}" stroke="{{.Colour}}" stroke-dasharray="1 3" fill="none"/><text x="{{.MaxX}}" y="{{.MaxY}}" dy="-5" text-anchor="end" fill="{{.Colour}}">{{.Letter}}: {{.MaxLabel}}</text>
{{end}}{{end}}{{range .Runs}}<path d="{{.Path}}" stroke="{{.Colour}}" stroke-width="2.2" stroke-dasharray="{{.Dash}}" stroke-linejoin="round" fill="none"/><text x="818" y="{{.LabelY}}" dy="5" font-size="14" font-weight="bold" fill="{{.Colour}}">{{.Letter}}</text>
{{end}}{{if .Refusals}}<text x="20" y="364" font-weight="bold">Packets refused a second</text>
{{range .RefusedTicks}}<path d="M78 {{.At}}H812" stroke="#e4e4e4"/><text x="72" y="{{.At}}" dy="4" text-anchor="end">{{.Label}}</text>
{{end}}{{range .Runs}}{{if .RefusedPath}}<path d="{{.RefusedPath}}" stroke="{{.Colour}}" stroke-width="2.2" stroke-dasharray="{{.Dash}}" fill="none"/>
{{end}}{{end}}{{else}}<text x="20" y="364" font-weight="bold">No packet is refused by any of them.</text>
{{end}}<g font-weight="bold"><text x="74" y="482">Setting</text><text x="540" y="482" text-anchor="end">full after</text><text x="620" y="482" text-anchor="end">peak</text><text x="710" y="482" text-anchor="end">refused</text><text x="784" y="482" text-anchor="end">served</text><text x="860" y="482" text-anchor="end">memory</text></g>
<path d="M20 489H860" stroke="#999"/>
{{range .Runs}}<path d="M20 {{.Row}}h28" stroke="{{.Colour}}" stroke-width="2.2" stroke-dasharray="{{.Dash}}"/><text x="54" y="{{.Row}}" dy="4" font-size="13" font-weight="bold" fill="{{.Colour}}">{{.Letter}}</text>
<text x="74" y="{{.Row}}" dy="4" font-weight="bold">{{.Name}}</text>{{range .Details}}<text x="74" y="{{.At}}" dy="4" fill="#666">{{.Label}}</text>{{end}}
<g text-anchor="end"><text x="540" y="{{.Row}}" dy="4">{{.Full}}</text><text x="620" y="{{.Row}}" dy="4">{{.PeakText}}</text><text x="710" y="{{.Row}}" dy="4">{{.RefusedText}}</text><text x="784" y="{{.Row}}" dy="4">{{.Served}}</text><text x="860" y="{{.Row}}" dy="4">{{.Memory}}</text></g>
{{end}}</svg>
`

const htmlText = `<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>ctwarden simulate</title>
<style>body{font:15px/1.5 system-ui,sans-serif;max-width:920px;margin:2em auto;padding:0 1em;color:#222}table{border-collapse:collapse;width:100%;font-size:14px}th,td{padding:.25em .5em;border-bottom:1px solid #ddd;text-align:right}th:first-child,td:first-child{text-align:left}h2{font-size:1.1em;margin:2em 0 .4em}.key span{display:inline-block;width:.9em;height:.9em;margin:0 .3em 0 1em;vertical-align:-.1em}svg{max-width:100%}</style>
{{template "svg" .}}
<p>Top: entries over time, the dotted line of the same colour is the setting's limit. Served: the share of legitimate connections that were answered.</p>
<h2>What the table held</h2><p class="key">{{range .Kinds}}<span style="background:{{.Colour}}"></span>{{.Name}}{{end}}</p>
{{range .Runs}}<h2>{{.Letter}}: {{.Name}}</h2>
<p>Kernel {{.Era}}, max {{.MaxText}}; evicted {{.Evicted}}.</p>
{{if .Stack}}<svg viewBox="0 0 470 124" width="620" role="img"><title>Entries by kind over time</title>{{range .Stack}}<path d="{{.Path}}" fill="{{.Colour}}"/>{{end}}<text x="404" y="10" font-size="10">{{.Top}}</text></svg>{{end}}
{{if .Classes}}<table><tr><th>class</th><th>connections</th><th>answered</th><th>gave up</th><th>broken</th><th>packets refused</th><th>evicted</th></tr>
{{range .Classes}}<tr><td>{{.Name}}{{if not .Legitimate}} (attack){{end}}</td><td>{{.Started}}</td><td>{{.Answered}}</td><td>{{.GaveUp}}</td><td>{{.Broken}}</td><td>{{.RefusedPackets}}</td><td>{{.EarlyDropped}}</td></tr>
{{end}}</table>{{end}}
{{end}}</html>
`
