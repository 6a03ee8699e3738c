{{/* Labels of every object. Not of pods: those would be replaced with every version of the chart. */}}
{{- define "hotplate.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}

{{/* What selects the pods of a component, by (list . "agent"). */}}
{{- define "hotplate.selector" -}}
{{- $ := index . 0 -}}
app.kubernetes.io/name: {{ $.Chart.Name }}
app.kubernetes.io/instance: {{ $.Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end }}

{{- define "hotplate.image" -}}
{{- with .Values.image -}}
{{ .repository }}{{ if .digest }}@{{ .digest }}{{ else }}:{{ .tag | default $.Chart.AppVersion }}{{ end }}
{{- end -}}
{{- end }}

{{/* Where things are on the nodes: the preset's lines, each replaced by one of paths. YAML. */}}
{{- define "hotplate.paths" -}}
{{- $paths := get (.Files.Get "files/presets.yaml" | fromYaml) .Values.preset -}}
{{- range $name, $path := .Values.paths }}
{{- if $path }}{{ $_ := set $paths $name $path }}{{ end }}
{{- end }}
{{- toYaml $paths }}
{{- end }}

{{/* What cannot be meant. */}}
{{- define "hotplate.check" -}}
{{- $paths := include "hotplate.paths" . | fromYaml }}
{{- if has .Release.Namespace (list "kube-system" "kube-public" "kube-node-lease") }}
{{- fail (printf "hotplate needs a namespace of its own, not %s: every node may read all Secrets and ConfigMaps of it" .Release.Namespace) }}
{{- end }}
{{- if and .Values.agent.privileged .Values.agent.publishOnly }}
{{- fail "agent.privileged and agent.publishOnly exclude each other" }}
{{- end }}
{{- if not (hasPrefix (printf "%s/" $paths.configDir) (printf "%s/" $paths.hostsDir)) }}
{{- fail (printf "paths.hostsDir %s is not in paths.configDir %s, which is what agents see of the node" $paths.hostsDir $paths.configDir) }}
{{- end }}
{{- end }}

{{/* Tolerations of the startup taint and of extraTaints. */}}
{{- define "hotplate.tolerations" -}}
- key: hotplate.dev/not-ready
  operator: Exists
{{- range .Values.extraTaints }}
- key: {{ .key | quote }}
  {{- if .value }}
  operator: Equal
  value: {{ .value | quote }}
  {{- else }}
  operator: Exists
  {{- end }}
  {{- with .effect }}
  effect: {{ . }}
  {{- end }}
{{- end }}
{{- end }}

{{/* Environment, from a map of names. */}}
{{- define "hotplate.env" -}}
{{- $list := list }}
{{- range $name, $value := . }}
{{- $list = append $list (dict "name" $name "value" $value) }}
{{- end }}
{{- toYaml $list }}
{{- end }}

{{/* The pod of a Job of the coordinator's, by (dict "root" . "name" "…" "args" (list …)). */}}
{{- define "hotplate.jobPod" -}}
{{- $ := .root -}}
serviceAccountName: hotplate-coordinator
automountServiceAccountToken: true
enableServiceLinks: false
restartPolicy: Never
{{- with $.Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
nodeSelector:
  kubernetes.io/os: linux
  {{- with $.Values.coordinator.nodeSelector }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
tolerations:
  {{- include "hotplate.tolerations" $ | nindent 2 }}
  {{- with $.Values.coordinator.tolerations }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- include "hotplate.unprivilegedPod" $.Values.coordinator | nindent 0 }}
containers:
  - name: {{ .name }}
    image: {{ include "hotplate.image" $ | quote }}
    imagePullPolicy: {{ $.Values.image.pullPolicy }}
    command: [/hotplate-coordinator]
    args:
      {{- toYaml .args | nindent 6 }}
    securityContext:
      {{- include "hotplate.unprivileged" . | nindent 6 }}
    resources:
      requests: {cpu: 10m, memory: 64Mi}
      limits: {memory: 256Mi}
{{- end }}

{{/* What a coordinator's pod and container may do: nothing. */}}
{{- define "hotplate.unprivilegedPod" -}}
securityContext:
  runAsNonRoot: true
  runAsUser: 65532
  runAsGroup: 65532
  fsGroup: 65532
  seccompProfile: {type: RuntimeDefault}
  {{- with .appArmorProfile }}
  appArmorProfile:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .seLinuxOptions }}
  seLinuxOptions:
    {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end }}

{{- define "hotplate.unprivileged" -}}
privileged: false
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end }}
