"""The commands of people, run against a router: nothing but another DSN."""

from __future__ import annotations

from types import ModuleType

from tests.cli import test_catalog_commands, test_create_command, test_operations_commands
from tests.queue import test_commands
from tests.shards.contract import ELSEWHERE, INSIDE, Reason, suite

_LEFT_OUT: dict[ModuleType, dict[str, Reason]] = {
    test_catalog_commands: {
        "test_all_lists_more_than_a_page": INSIDE,
        "test_fields_and_file_exclude_each_other": ELSEWHERE,
        "test_a_file_that_is_no_json_object_is_wrong_usage": ELSEWHERE,
    },
    test_create_command: {
        "test_input_that_is_no_payment_is_wrong_usage": ELSEWHERE,
        "test_more_than_ten_thousand_belong_into_a_file": ELSEWHERE,
        "test_hostile_values_are_rejected_rows": Reason("test_core_contract asks them of the router"),
        "test_no_phone_and_no_otp_is_printed": Reason("who answers makes no difference to what is printed"),
    },
    test_operations_commands: {
        "test_verify_ends_with_one_for_a_broken_invariant_and_repair_mends_it": INSIDE,
    },
    test_commands: {"test_misuse_ends_with_two": ELSEWHERE},
}
for _module, _left_out in _LEFT_OUT.items():
    globals().update(suite(_module, _left_out))
