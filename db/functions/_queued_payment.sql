-- Purpose: which company and which payment a stored request names, whatever else is wrong with it.
-- Parameters: p_request, any JSON.  Returns: the company, null when it is no UUID; the payment, null when it is no well-formed id.
set role farebox_owner;

create function farebox._queued_payment(p_request json, out company_id uuid, out transaction_id text)
language plpgsql stable security invoker parallel safe
as $$
declare
  v_batch json := json_build_array(p_request);
begin
  begin
    select x.company_id, case when json_typeof(x.monime_transaction_id) = 'string' then x.monime_transaction_id #>> '{}' end
    into company_id, transaction_id
    from json_to_recordset(v_batch) as x(company_id uuid, monime_transaction_id json);
  exception when data_exception or statement_too_complex then
    v_batch := farebox._clean_batch(case when sqlstate = '54001' then farebox._shallow_json(v_batch) else v_batch end);
    select x.company_id, case when json_typeof(x.monime_transaction_id) = 'string' then x.monime_transaction_id #>> '{}' end
    into company_id, transaction_id
    from json_to_recordset(v_batch) as x(company_id uuid, monime_transaction_id json);
  end;
  transaction_id := farebox._trimmed(transaction_id);
  if length(transaction_id) not between 1 and 64 then
    transaction_id := null;
  end if;
end
$$;

comment on function farebox._queued_payment(json) is 'Internal: the company and the payment that a stored request names';

reset role;
