{{- /* The name NAME, with the revision unless it is the default one: include "seine.name" (list . "seined") */}}
{{- define "seine.name" -}}
{{- $root := index . 0 -}}
{{- index . 1 }}{{ if ne $root.Values.revision "default" }}-{{ $root.Values.revision }}{{ end }}
{{- end }}

{{- /* What selects the pods of this revision's seined. */}}
{{- define "seine.selector" -}}
app: seined
app.kubernetes.io/name: seined
seine.dev/revision: {{ .Values.revision }}
{{- end }}

{{- /* The labels of all that this chart makes. */}}
{{- define "seine.labels" -}}
app.kubernetes.io/part-of: seine
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/version: {{ include "seine.tag" . | quote }}
seine.dev/revision: {{ .Values.revision }}
{{- end }}

{{- define "seine.tag" -}}
{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end }}

{{- /* An image: include "seine.image" (list . .Values.image.seined) */}}
{{- define "seine.image" -}}
{{- $root := index . 0 -}}
{{- with $root.Values.image.registry }}{{ . }}/{{ end }}{{ index . 1 }}:{{ include "seine.tag" $root }}
{{- end }}

{{- define "seine.replicas" -}}
{{- if .Values.replicas }}{{ .Values.replicas }}{{ else if .Values.ha }}3{{ else }}1{{ end }}
{{- end }}
