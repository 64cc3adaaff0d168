// Package conformance runs the Gateway API's official conformance suite against the cluster that KUBECONFIG names.
//
// The features that are tested are those that the GatewayClass claims in its status, and no flag adds or removes one.
// `cargo xtask conformance` brings a cluster up, installs Understudy in it and runs this.
package conformance

import (
	"context"
	"encoding/json"
	"os"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"k8s.io/apimachinery/pkg/types"
	v1 "sigs.k8s.io/gateway-api/apis/v1"
	"sigs.k8s.io/gateway-api/conformance"
	"sigs.k8s.io/gateway-api/conformance/tests"
	"sigs.k8s.io/gateway-api/conformance/utils/suite"
	"sigs.k8s.io/gateway-api/pkg/features"
)

// listEnv names the file that TestList writes.
const listEnv = "CONFORMANCE_LIST"

// TestConformance is the suite. It tests what the GatewayClass claims.
func TestConformance(t *testing.T) {
	options := conformance.DefaultOptions(t)
	require.Empty(t, options.ExemptFeatures, "no feature is exempt")
	require.Empty(t, options.SkipTests, "no test is skipped")
	conformance.RunConformanceWithOptions(t, options)
}

// TestUnclaimed runs the tests of gateways that need a feature which the GatewayClass does not claim. Those that pass
// are features to claim; those that fail say nothing.
func TestUnclaimed(t *testing.T) {
	options := conformance.DefaultOptions(t)
	claimed := claimedFeatures(t, options)
	for _, test := range tests.ConformanceTests {
		if !isForGateways(test) || claimed.HasAll(test.Features...) {
			options.SkipTests = append(options.SkipTests, test.ShortName)
		}
	}
	options.SupportedFeatures = nil
	for feature := range features.AllFeatures {
		options.SupportedFeatures = append(options.SupportedFeatures, feature.Name)
	}
	for feature := range meshFeatures() {
		options.SupportedFeatures = slices.DeleteFunc(options.SupportedFeatures, func(name features.FeatureName) bool {
			return name == feature
		})
	}
	conformance.RunConformanceWithOptions(t, options)
}

// profiles are those that concern gateways.
var profiles = []suite.ConformanceProfile{
	suite.GatewayHTTPConformanceProfile,
	suite.GatewayGRPCConformanceProfile,
	suite.GatewayTLSConformanceProfile,
	suite.GatewayTCPConformanceProfile,
	suite.GatewayUDPConformanceProfile,
}

// listed is a test of the suite that concerns gateways, or a profile of them.
type listed struct {
	Name     string                 `json:"name"`
	Features []features.FeatureName `json:"features"`
}

// list is what the suite has for gateways.
type list struct {
	Tests    []listed `json:"tests"`
	Profiles []listed `json:"profiles"`
}

// TestList writes the tests and profiles that concern gateways, for those who compare what ran with what there is.
func TestList(t *testing.T) {
	file := os.Getenv(listEnv)
	if file == "" {
		t.Skipf("%s names no file", listEnv)
	}
	var all list
	for _, test := range tests.ConformanceTests {
		if isForGateways(test) {
			all.Tests = append(all.Tests, listed{Name: test.ShortName, Features: test.Features})
		}
	}
	for _, profile := range profiles {
		names := profile.CoreFeatures.Union(profile.ExtendedFeatures).UnsortedList()
		all.Profiles = append(all.Profiles, listed{Name: string(profile.Name), Features: names})
	}
	text, err := json.Marshal(all)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(file, text, 0o600))
}

// isForGateways says whether a test concerns gateways, and not meshes.
func isForGateways(test suite.ConformanceTest) bool {
	mesh := meshFeatures()
	return !slices.ContainsFunc(test.Features, func(name features.FeatureName) bool { return mesh.Has(name) })
}

func meshFeatures() suite.FeaturesSet {
	return features.SetsToNamesSet(features.MeshCoreFeatures, features.MeshExtendedFeatures)
}

// claimedFeatures are those in the status of the GatewayClass.
func claimedFeatures(t *testing.T, options suite.ConformanceOptions) suite.FeaturesSet {
	var class v1.GatewayClass
	name := types.NamespacedName{Name: options.GatewayClassName}
	require.NoError(t, options.Client.Get(context.Background(), name, &class))
	claimed := suite.FeaturesSet{}
	for _, feature := range class.Status.SupportedFeatures {
		claimed.Insert(features.FeatureName(feature.Name))
	}
	return claimed
}
