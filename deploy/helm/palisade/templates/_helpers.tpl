{{/* What all objects are called. */}}
{{- define "palisade.name" -}}
palisade-control{{ if ne .Values.revision "default" }}-{{ .Values.revision }}{{ end }}
{{- end }}

{{/* By these a control plane's pods are selected: they never change. */}}
{{- define "palisade.selector" -}}
app.kubernetes.io/name: palisade-control
app.kubernetes.io/instance: {{ include "palisade.name" . }}
{{- end }}

{{- define "palisade.labels" -}}
{{ include "palisade.selector" . }}
app.kubernetes.io/part-of: palisade
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
istio.io/rev: {{ .Values.revision }}
{{- end }}

{{/* An image by its name. */}}
{{- define "palisade.image" -}}
{{ .root.Values.images.registry }}/{{ .name }}:{{ .root.Values.images.tag | default .root.Chart.AppVersion }}
{{- end }}

{{/* Rights that name what belongs to a control plane name what belongs to this one. */}}
{{- define "palisade.rights" -}}
{{- $suffix := ternary "" (printf "-%s" .root.Values.revision) (eq .root.Values.revision "default") -}}
{{ regexReplaceAll "(?m)^(\\s*- \"?palisade(?:-control)?)(\"?)$" (.root.Files.Get .file) (printf "${1}%s${2}" $suffix) }}
{{- end }}
