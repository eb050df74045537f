//! The contract of `Store`, as tests that every implementation passes.
//!
//! Each case is written once, against the trait, and stands in the one table below. Never tests how an
//! implementation does it: that belongs beside the implementation.

mod accepting;
mod catalog;
mod damage;
mod disk;
mod dossier;
mod ending;
mod format;
mod history;
mod names;
mod outbox;
mod programs;
mod retention;
mod samples;
mod settling;
mod subject;

macro_rules! every_case {
    ($subject:path) => {
        cases! { $subject;
            accepting: [
                an_accepted_event_is_owed_and_noticed_once,
                sequences_count_every_event_of_a_merchant_without_gaps,
                a_merchant_that_was_deleted_and_put_again_goes_on_counting,
                ids_grow_even_when_the_clock_goes_back,
                a_key_stays_known_to_a_clock_that_goes_back_by_a_day,
                the_same_key_with_the_same_content_is_a_duplicate,
                the_same_key_with_other_content_is_a_conflict_and_stores_nothing,
                a_key_means_something_else_at_every_merchant,
                one_key_from_sixteen_threads_makes_one_event,
                a_key_lives_for_a_day_and_is_free_again_later,
                an_event_without_an_endpoint_is_skipped,
                an_event_for_a_deleted_endpoint_is_skipped,
                an_event_of_a_deleted_merchant_is_skipped,
                events_from_many_threads_are_noticed_in_the_order_of_their_records,
                payloads_come_back_byte_for_byte,
                a_location_without_an_event_is_an_error,
            ],
            settling: [
                a_retry_moves_the_delivery_to_its_new_time,
                a_delivery_may_be_moved_without_an_attempt,
                a_delivery_that_stays_at_its_time_is_still_owed_once,
                a_final_status_leaves_the_outbox_and_shows_in_the_history_alone,
                a_resend_is_owed_again_whatever_the_status_was,
                a_resend_of_a_skipped_event_is_owed,
                the_newest_delivery_is_the_one_that_counts,
                deliveries_of_a_deleted_endpoint_stay_owed_until_they_are_canceled,
                every_record_has_a_greater_location_than_the_one_before,
            ],
            outbox: [
                what_is_owed_is_ordered_by_due_time_and_then_by_age,
                a_page_begins_at_the_key_asked_for,
                a_page_is_cut_at_its_limit_and_says_whether_more_follows,
                each_endpoint_has_an_outbox_of_its_own,
                a_page_never_shows_a_record_newer_than_it_says,
                paging_finds_what_does_not_move_exactly_once,
                the_backlog_counts_what_a_full_scan_finds,
            ],
            history: [
                each_filter_alone_and_together_finds_exactly_what_it_names,
                a_thousand_events_are_paged_without_loss_or_repeat,
                the_last_page_says_that_nothing_follows,
                bounds_of_ids_are_inclusive,
                nobody_sees_the_events_of_another,
                events_that_change_between_pages_are_neither_lost_nor_repeated,
                a_resource_is_matched_by_its_whole_name,
            ],
            dossier: [
                a_dossier_holds_the_event_as_it_came,
                a_dossier_holds_every_attempt_in_order,
                a_dossier_shows_the_delivery_as_it_stands,
                a_dossier_is_for_its_merchant_only,
            ],
            catalog: [
                the_catalog_holds_what_was_put_and_not_deleted,
                the_pause_of_retries_stays_until_it_is_lifted,
                an_endpoint_keeps_its_secrets_and_its_state,
                keys_keep_their_role_until_they_are_revoked,
                owners_are_set_moved_and_forgotten,
                deleting_a_merchant_leaves_the_rest_alone,
                a_list_of_changes_is_seen_whole_or_not_at_all,
                later_changes_in_a_list_win,
            ],
            ending: [
                a_closed_store_refuses_every_write,
                a_settlement_after_the_end_is_not_noticed,
                what_was_acknowledged_survives_every_ending,
                a_store_that_was_opened_again_goes_on_where_it_stood,
            ],
        }

        #[test]
        fn random_programs_agree_with_the_model() {
            crate::programs::agree_with_the_model($subject, false);
        }
    };
}

macro_rules! cases {
    ($subject:path; $($chapter:ident: [$($case:ident),* $(,)?],)*) => {
        $(mod $chapter {
            $(#[test]
            fn $case() {
                crate::$chapter::$case(&mut $subject());
            })*
        })*
    };
}

// The implementations, one line each: a module of tests and the function that makes a fresh subject.
mod memory {
    every_case!(crate::subject::memory);
}
mod embedded {
    every_case!(crate::disk::fresh);
}
