package main

import (
	"cmp"
	"encoding/json"
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"

	"github.com/hotplate-dev/hotplate/agent/coordinator"
	"github.com/hotplate-dev/hotplate/agent/report"
)

// merge is what the leader has heard, and of other nodes what their objects say.
func merge(heard []coordinator.NodeStatus, marked []corev1.Node) []coordinator.NodeStatus {
	all := slices.Clone(heard)
	for _, node := range marked {
		if !slices.ContainsFunc(heard, func(is coordinator.NodeStatus) bool { return is.Node == node.Name }) {
			all = append(all, fromMarks(node))
		}
	}
	slices.SortFunc(all, func(a, b coordinator.NodeStatus) int { return cmp.Compare(a.Node, b.Node) })
	return all
}

// fromMarks is what a Node object says of hotplate.
func fromMarks(node corev1.Node) coordinator.NodeStatus {
	is := coordinator.NodeStatus{Node: node.Name, Ready: report.Unknown}
	if c := nodeCondition(node, coordinator.ConditionReady); c != nil {
		is.Ready, is.Reason, is.Message = report.ConditionStatus(c.Status), c.Reason, c.Message
	}
	if c := nodeCondition(node, coordinator.ConditionPreheat); c != nil {
		is.Faults = []string{c.Message}
	}
	var summary coordinator.Summary
	if json.Unmarshal([]byte(node.Annotations[coordinator.StatusAnnotation]), &summary) != nil {
		return is // somebody has overwritten it; the coordinator puts it right
	}
	for _, name := range slices.Sorted(maps.Keys(summary.Images)) {
		is.Images = append(is.Images, coordinator.ImageStatus{WantedImage: report.WantedImage{Name: name}, State: summary.Images[name]})
	}
	return is
}

func nodeCondition(node corev1.Node, kind string) *corev1.NodeCondition {
	i := slices.IndexFunc(node.Status.Conditions, func(c corev1.NodeCondition) bool { return string(c.Type) == kind })
	if i < 0 {
		return nil
	}
	return &node.Status.Conditions[i]
}
